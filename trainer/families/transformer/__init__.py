"""GPT-2 and Llama blocks."""
