//! Quantised convolution for tract: int8 tensors in, int8 tensors out, bit for bit as ONNX `QLinearConv`.
