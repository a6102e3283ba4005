"""Messages to the broker and images to the store, each until it is confirmed."""
