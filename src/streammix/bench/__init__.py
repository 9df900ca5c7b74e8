"""`streammix bench`: what the library's parts cost, against what people use instead. One folder a suite."""
