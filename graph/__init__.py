"""What happens, in order: state, nodes, wiring, rollouts, the training loop."""
