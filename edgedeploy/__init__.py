"""Compress, export, push, measure and select neural-network variants for edge devices."""
