"""Inside the model: how the answer arises, layer by layer, and where in the sentence a neuron fires.

    look_inside(atlas, subject, question)
"""
