"""`python -m taro.synthetic`: videos of the synthetic world, see `taro.synthetic.world`."""

from taro.synthetic.world import main

if __name__ == "__main__":
    main()
