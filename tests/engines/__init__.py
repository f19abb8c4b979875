"""The tier of engines: workers on Kubernetes, AWS Batch, Dask, Ray and MPI, real or stood in for on this machine."""
