"""What a user would otherwise run, each an adapter with one interface, and each optional.

An adapter says what it computes, where that differs from cost-volume attention, and why it cannot run where it cannot.
None of them is needed by the package, and none of their packages is a dependency.
"""
