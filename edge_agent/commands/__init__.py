"""Commands from operators: checked, remembered, carried out once, answered."""
