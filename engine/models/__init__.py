"""Nets that pretrained weights exist for, and their texts: `from tilegrad.models import bert, text`."""
