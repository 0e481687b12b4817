"""Results: the chosen settings of a study, the ledger of an ablation, its claims, comparisons, costs.

Start with `final_settings.py` for studies and `ledger.py` for ablations.
"""
