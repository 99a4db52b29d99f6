"""Episodes from HDF5 files to packed batches: readers, windows, split, samplers, normalisers, datamodule."""
