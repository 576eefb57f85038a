"""Encryption: the KEK wraps data keys, a data key encrypts what belongs to one credential.

Here are the envelope, bodies, the keyring, event keys, the table of KEKs, and, in kms, the
providers that keep a KEK's key outside of this service. Callers' access keys are in access.
Rotation from one KEK to another is in operations.
"""
