import torch
from transformers import AutoModel
def draw(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
def test_probe(build_model, make_inputs, tmp_path):
    m=build_model(); inputs=make_inputs(2); n=draw(1,5,3)
    print("threads",torch.get_num_threads(), torch.backends.mkldnn.enabled)
    a=m.sample_actions(**inputs,noise=n)
    for k in ("plain","shard"):
        m.save_pretrained(tmp_path/k, **({} if k=="plain" else dict(max_shard_size="150KB")))
        l=AutoModel.from_pretrained(tmp_path/k)
        b=l.sample_actions(**inputs,noise=n)
        print(k,(a-b).abs().max().item())
        print({x.config._attn_implementation for x in l.modules() if hasattr(x,'config') and hasattr(x.config,'_attn_implementation')}, {type(x).__name__:x.config._attn_implementation for x in m.modules() if hasattr(x,'config') and hasattr(x.config,'_attn_implementation')})
        bad=[p for p,q in zip(m.state_dict().items(), l.state_dict().items()) if not torch.equal(p[1],q[1])]
        print("bad",[x[0] for x in bad])
        bb=[(nm) for (nm,p),(_,q) in zip(m.named_buffers(), l.named_buffers()) if not torch.equal(p,q)]
        print("bad buffers",bb)
        print("align m",sorted({p.data_ptr()%64 for p in m.parameters()}),"l",sorted({p.data_ptr()%64 for p in l.parameters()}))
        # clone to aligned
        with torch.no_grad():
            for p in l.parameters(): p.data=p.data.clone()
        print("aligned",sorted({p.data_ptr()%64 for p in l.parameters()}),(a-l.sample_actions(**inputs,noise=n)).abs().max().item())
