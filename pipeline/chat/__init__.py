"""Asking chat models: on any server that speaks OpenAI's protocol, or loaded here; and every reply kept."""
