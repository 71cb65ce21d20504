"""The aiohttp application: routes, the local guard, replies, and the figures."""

from proxy.server.app import Server

__all__ = ["Server"]
