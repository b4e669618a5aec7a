"""Everything that touches a model: loading, attribution, interventions, readout.

    from atlas.surgery import load_subject, attribute, Suppress
    subject = load_subject("pocket-bert")

The only part of the library that imports torch and transformers. Browsing never imports it.
"""

from atlas.surgery.attribution import Attribution, attribute
from atlas.surgery.interventions import Amplify, Edit, Erase, Suppress, by_sign
from atlas.surgery.readout import readout
from atlas.surgery.subject import Prediction, Subject, load_subject

__all__ = [
    "Amplify",
    "Attribution",
    "Edit",
    "Erase",
    "Prediction",
    "Subject",
    "Suppress",
    "attribute",
    "by_sign",
    "load_subject",
    "readout",
]
