print("ringfence")
