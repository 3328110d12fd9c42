"""The grounding Space: pages, the overlay component and what stands between them and a model."""
