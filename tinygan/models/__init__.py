"""The nets: whole systems made of the layers one floor below."""
