"""Rendered documents with questions, answers and word boxes: receipts, forms, tables, charts and signs."""
