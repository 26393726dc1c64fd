"""The training recipe of the model `cns-mri`: synthetic heads -> float U-Net -> int8 ONNX -> packaged folder.

Run the modules in the order of ../README.md. In: label maps of heads. Out: models/cns-mri/.
"""
