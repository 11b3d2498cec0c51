"""Write models for other libraries and runtimes: ONNX, OpenVINO, timm, open_clip, sentence-transformers."""
