"""Between stored pixels, uint8 in 0..255, and the images of the library, float in [-1, 1] (stored so, or not)."""


def to_float(pixels):
    """uint8 -> float32, 0 -> -1 and 255 -> 1; float16 -> float32, and float32 as it is; NumPy or jax."""
    if pixels.dtype == "float32":
        return pixels
    return pixels.astype("float32") if pixels.dtype == "float16" else pixels.astype("float32") / 127.5 - 1.0


def to_uint8(images):
    """Float -> uint8, rounded to the nearest level and clipped; the inverse of `to_float`; NumPy or jax."""
    return ((images.astype("float32") + 1.0) * 127.5).round().clip(0, 255).astype("uint8")
