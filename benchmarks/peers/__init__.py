"""Other people's methods on our instrument: its_hub 1.2.0 and OptiLLM 0.4.0 beside ours.

Same problems, same served reasoner (vLLM), same served process reward model, same N; tokens are counted by
the model server. A peer runs in an environment and a process of its own: nothing here imports it.
"""
