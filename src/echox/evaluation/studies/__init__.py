"""Studies of the method: ablations, the acoustic-semantic gap, speech policies, voice, conditions of hearing."""
