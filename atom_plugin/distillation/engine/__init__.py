"""How one distillation step is computed."""
