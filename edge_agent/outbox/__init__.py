"""What was counted, made durable before anything is sent."""
