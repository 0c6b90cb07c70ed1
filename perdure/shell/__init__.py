"""The shell around the array core: sockets, threads and the clock, under asyncio. It moves bytes and time only."""
