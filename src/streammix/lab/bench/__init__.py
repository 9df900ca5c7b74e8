"""`streammix bench`: what the projection costs and how exact it is, against what people use instead."""
