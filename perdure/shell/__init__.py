"""The shell around the array core: sockets and the clock, under asyncio. It moves bytes and time only."""
