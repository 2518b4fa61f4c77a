"""Small programs on top of blockyard: docs/recipes.md lists them, `make examples` runs them."""
