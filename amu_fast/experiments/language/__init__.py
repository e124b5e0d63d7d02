"""Language models: fictitious authors, TOFU, and what is measured on them."""
