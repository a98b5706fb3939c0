"""Nets that pretrained weights exist for. A module each: `from tilegrad.models import bert`."""
