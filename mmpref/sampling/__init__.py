"""On-policy pairs: prompts -> candidates -> scored candidates -> preference pairs, each step resumable.

``generate`` lets a model answer every prompt several times, ``score`` gives the answers of such a folder, or of any
pair set, scores on one range, ``pair`` makes pairs of them, and ``rounds`` repeats the whole with the model that the
last round trained. Each step has a folder of its own (:mod:`mmpref.sampling.steps`).
"""
