"""The stages of a recipe: the table of their kinds (`kinds.py`), what they read (`inputs.py`), what the loop needs.

The top of the package: here settings, data, encoder, loop and store meet. Start with `run_recipe.py`.
"""
