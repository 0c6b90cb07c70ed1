"""The simulated platform: launches and measures an image as Nitro does and signs documents under a root of its own.

It protects nothing: whoever holds the root's directory can sign anything. A verifier accepts it only if its policy
names that root.
"""
