"""How the bundled demo data were made: `python -m benchmarks.demo_data --out sllmr_plugin/datasets/demo_data`."""
