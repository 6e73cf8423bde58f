"""Kinds of pipelines that `bins/convert.py assemble KIND` puts together."""
