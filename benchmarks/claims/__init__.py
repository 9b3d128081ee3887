"""Claims of papers, each measured on the embedded tasks by one script that ends in a verdict.

python -m benchmarks.claims            all of them; rewrites the claims in docs/evidence.md
python -m benchmarks.claims pets ...   some of them, and their part of the page
"""
