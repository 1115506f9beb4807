"""The encoder service: Ray Serve applications that encode, decode and compress over HTTP."""
