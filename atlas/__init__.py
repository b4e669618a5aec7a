"""The Knowledge Neuron Atlas: which feed-forward neurons of a language model carry which fact.

    import atlas
    a = atlas.open("starter-pocket-bert")          # Parquet + DuckDB, no torch
    a.query("SELECT * FROM hub_neurons LIMIT 5")   # a pandas DataFrame

The part that touches models lives in ``atlas.surgery`` and is imported only by those who need it.
"""

__version__ = "0.1.0"
