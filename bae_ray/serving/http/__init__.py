"""The API: what requests and answers look like, who may call, and within which limits."""
