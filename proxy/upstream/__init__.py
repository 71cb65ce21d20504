"""The far side: WebSocket connections, the pool that keeps them, and plain HTTP."""
