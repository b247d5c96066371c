"""Reading videos and turning them into clips."""
