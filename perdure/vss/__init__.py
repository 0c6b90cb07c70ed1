"""A server of LDK's Versioned Storage Service (https://github.com/lightningdevkit/vss-server) on an array.

A *store* is a name space of a *user*; keys in it have versions. `messages` is the wire, `objects` what is kept, `auth`
who asks, `service` one request, `http` the connections, `main` the program.
"""
