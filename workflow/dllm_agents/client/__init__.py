"""What agents talk to: OpenAI-compatible servers, streamed or whole."""
