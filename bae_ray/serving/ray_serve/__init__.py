"""How an application runs under Ray Serve: its address, its proxy, its place on the machine, and its end."""
