"""Write the reports of studies, ablations and several runs: an HTML page with all its files.

Start with `reports.py`.
"""
