"""The disk: the whole program that runs inside a trusted execution environment, and nothing else.

Trusts the authority's public key that was built into its image and the platform's evidence device; distrusts every
byte that arrives. It holds no private key, and no data outside sector memory and buffers that it wipes. The import
closure and the line count of this folder are the trusted base: a test holds both.
"""
