"""Models: functions of the input's shape and the number of outputs that return an `nn.Module`."""
