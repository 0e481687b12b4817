"""The stages of a recipe: what determines their results (`identity.py`), what they read (`inputs.py`), what the loop needs.

The top of the package: here settings, data, encoder, loop and store meet. Start with `run_recipe.py`.
"""
