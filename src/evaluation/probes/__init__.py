"""Changed inputs: does the policy listen, look and remember?"""
